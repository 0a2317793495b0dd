"""Names of known classes for the gates, in four languages: data only. `a=b` says the same thing; a class is closed: one of it is not another."""

from __future__ import annotations

# Where a name of these stands on one side only, the questions differ.
CLOSED = {
    "country": """
    afghanistan=afghan=afghans albania=albanian algeria=algerian=algerien andorra angola argentina=argentine=argentinian=argentinien=argentine armenia=armenian=armenien
    australia=australian=australians=australien=australie=aussie austria=austrian=österreich=österreicher=autriche azerbaijan bahrain bangladesh=bangladeshi belarus
    belgium=belgian=belgien=belgique=bélgica belize benin bhutan bolivia=bolivian bosnia botswana brazil=brazilian=brasilien=brésil=brasil brunei bulgaria=bulgarian=bulgarien=bulgarie
    burma=myanmar burundi cambodia=cambodian=kambodscha cameroon canada=canadian=canadians=kanada=kanadisch chile=chilean china=chinese=chinesisch=chinois=chino=chine
    colombia=colombian=kolumbien=colombie congo=congolese costarica croatia=croatian=kroatien=croatie cuba=cuban=kuba cyprus=zypern=chypre czechia=czech=tschechien
    denmark=danish=dänemark=dänisch=danemark=dinamarca ecuador egypt=egyptian=egyptians=ägypten=égypte=egipto eritrea estonia=estonian=estland ethiopia=ethiopian=äthiopien
    finland=finnish=finnland=finlande=finlandia france=french=frankreich=französisch=français=française=francia=francés georgia=georgian
    germany=german=germans=deutschland=deutsch=deutsche=allemagne=allemand=alemania=alemán ghana=ghanaian greece=greek=griechenland=griechisch=grèce=grec=grecia=griego
    guatemala haiti honduras hungary=hungarian=ungarn=hongrie=hungría iceland=icelandic=island india=indian=indians=indien=indisch=inde=indien indonesia=indonesian=indonesien
    iran=iranian=irán iraq=iraqi=irak ireland=irish=irland=irlande=irlanda israel=israeli=israelis italy=italian=italians=italien=italienisch=italie=italia=italiano
    jamaica=jamaican japan=japanese=japanisch=japon=japón jordan=jordanien kazakhstan kenya=kenyan=kenia kosovo kuwait laos latvia=latvian=lettland lebanon=lebanese=libanon
    liberia libya=libyan=libyen=libye lithuania=lithuanian=litauen luxembourg=luxemburg madagascar malaysia=malaysian maldives mali malta mauritius mexico=mexican=mexicans=mexiko=mexique=méxico
    moldova monaco mongolia=mongolian montenegro morocco=moroccan=marokko=maroc=marruecos mozambique namibia nepal=nepali=nepalese netherlands=holland=dutch=niederlande=niederländisch=hollande=holanda
    nicaragua nigeria=nigerian=nigerians norway=norwegian=norwegen=norvège=noruega oman pakistan=pakistani=pakistanis palestine=palestinian panama paraguay peru=peruvian philippines=filipino=filipinos
    poland=polish=polen=polnisch=pologne=polonia portugal=portuguese=portugiesisch=portugais qatar romania=romanian=rumänien=roumanie=rumania russia=russian=russians=russland=russisch=russie=russe=rusia=ruso
    rwanda saudi=saudiarabia senegal serbia=serbian=serbien singapore=singapur slovakia=slovak=slowakei slovenia=slovenian=slowenien somalia=somali
    spain=spanish=spaniards=spanien=spanisch=espagne=espagnol=españa=español sudan=sudanese sweden=swedish=schweden=schwedisch=suède=suecia switzerland=swiss=schweiz=schweizer=suisse=suiza syria=syrian=syrians=syrien=syrie=siria
    taiwan=taiwanese tanzania thailand=thai=thailande=tailandia tibet=tibetan tunisia=tunisian=tunesien=tunisie turkey=turkish=türkei=türkisch=turquie=turquía uganda ukraine=ukrainian=ukrainians
    uae=emirates southafrica southkorea northkorea southamerica=latinamerica northamerica newzealand srilanka uk=britain=british=england=grossbritannien=angleterre=inglaterra=gb uruguay
    usa=america=american=americans=amerika=amerikanisch=amérique=américain=estadosunidos=unitedstates uzbekistan venezuela=venezuelan vietnam=vietnamese yemen zambia zimbabwe scotland=scottish=schottland=écosse
    wales=welsh europe=european=europeans=europa=europäisch africa=african=africans=afrika=afrique=áfrica asia=asian=asians=asien=asie antarctica""",
    "weekday": """
    monday=mondays=montag=montags=lundi=lunes tuesday=tuesdays=dienstag=dienstags=mardi=martes wednesday=wednesdays=mittwoch=mittwochs=mercredi=miércoles
    thursday=thursdays=donnerstag=donnerstags=jeudi=jueves friday=fridays=freitag=freitags=vendredi=viernes saturday=saturdays=samstag=samstags=sonnabend=samedi=sábado
    sunday=sundays=sonntag=sonntags=dimanche=domingo""",
    "month": """
    january=jan=januar=jänner=janvier=enero february=feb=februar=février=febrero march=märz=mars=marzo april=apr=avril=abril may=mai=mayo june=juni=juin=junio
    july=juli=juillet=julio august=aug=août=agosto september=sept=sep=septembre=septiembre october=oct=oktober=octobre=octubre november=nov=novembre=noviembre
    december=dec=dezember=décembre=diciembre""",
    "relative time": """
    today=tonight=heute=aujourdhui=hoy tomorrow=demain yesterday=gestern=hier=ayer tomorrow=übermorgen""",
}
# Where each side has another one of these, the questions differ; one more on one side may be a detail.
OPEN = {
    "city": """
    amsterdam athens=athen=athènes=atenas atlanta auckland austin baghdad bangalore=bengaluru bangkok barcelona beijing=peking=pékin beirut berlin bern bogota bonn boston brussels=brüssel=bruxelles budapest
    bucharest cairo=kairo calcutta=kolkata calgary canberra capetown caracas casablanca chandigarh chennai=madras chicago cologne=köln copenhagen=kopenhagen coimbatore dallas delhi=newdelhi denver detroit
    dhaka doha dresden dublin dusseldorf=düsseldorf edinburgh florence=florenz frankfurt geneva=genf=genève glasgow goa gurgaon=gurugram hamburg hannover hanoi havana helsinki hiroshima hongkong houston
    hyderabad indore istanbul jaipur jakarta jerusalem johannesburg kabul karachi kathmandu kiev=kyiv kerala lagos lahore leipzig lima lisbon=lissabon=lisbonne=lisboa liverpool london=londres losangeles lucknow
    lyon madrid manchester manila marseille mecca melbourne miami milan=mailand minsk montreal moscow=moskau=moscou=moscú mumbai=bombay munich=münchen nagasaki nagpur nairobi naples=neapel
    newyork=nyc nice noida nuremberg=nürnberg osaka oslo ottawa oxford cambridge paris parís patna philadelphia pittsburgh portland prague=prag pune quebec riga rio rome=rom=roma rotterdam salzburg sanfrancisco=sf
    santiago seattle seoul sevilla=seville shanghai sofia stockholm stuttgart sydney tehran=teheran tokyo=tokio=tókio toronto toulouse valencia vancouver varanasi venice=venedig=venise vienna=wien=vienne=viena
    vilnius warsaw=warschau=varsovie washington zurich=zürich california texas florida alaska hawaii ohio michigan virginia nevada arizona colorado georgia maryland oregon utah iowa kansas illinois indiana
    gujarat punjab bihar maharashtra rajasthan kashmir tamilnadu haryana assam odisha bavaria=bayern saxony=sachsen hessen berlin ontario""",
    "programming language": """
    python java javascript=js typescript=ts php ruby perl golang rust swift kotlin scala haskell erlang matlab fortran cobol pascal delphi lua bash powershell sql html css xml json yaml csv r
    assembly prolog lisp clojure julia dart groovy""",
    "product": """
    windows linux ubuntu debian fedora centos redhat macos=osx android ios iphone ipad chromebook macbook kindle xbox playstation nintendo excel word powerpoint outlook onenote access teams zoom skype slack
    discord whatsapp=whats telegram signal wechat facebook=fb instagram=ig twitter snapchat tiktok linkedin pinterest reddit quora tumblr youtube netflix spotify amazon ebay etsy alibaba flipkart paypal
    google bing yahoo gmail hotmail chrome firefox safari opera edge mysql=mariadb postgresql=postgres sqlite oracle mongodb redis cassandra docker kubernetes=k8s ansible terraform jenkins
    git svn mercurial github gitlab bitbucket nginx apache tomcat django flask rails laravel spring react angular vue svelte jquery nodejs tensorflow pytorch keras numpy pandas aws azure gcp heroku
    samsung nokia sony lg htc motorola xiaomi huawei oneplus lenovo dell hp acer asus toshiba canon nikon toyota honda ford bmw audi mercedes volkswagen=vw tesla hyundai nissan fiat renault uber lyft ola airbnb
    photoshop illustrator gimp autocad solidworks blender vim emacs eclipse intellij sap salesforce wordpress joomla drupal shopify bitcoin ethereum litecoin dogecoin visa mastercard amex walmart costco ikea
    tcs infosys wipro cognizant accenture deloitte microsoft apple intel amd nvidia qualcomm boeing airbus pepsi coke nike adidas puma""",
    "element": """
    hydrogen=wasserstoff helium lithium beryllium boron carbon=kohlenstoff nitrogen=stickstoff oxygen=sauerstoff fluorine fluoride neon sodium=natrium magnesium aluminium=aluminum silicon phosphorus sulfur=sulphur=schwefel chlorine=chlor
    argon potassium=kalium calcium titanium=titan chromium=chrom manganese iron=eisen cobalt nickel copper=kupfer zinc=zink arsenic bromine silver=silber tin=zinn iodine=jod platinum=platin gold mercury=quecksilber
    lead=blei uranium=uran plutonium radon radium cadmium barium tungsten steel=stahl brass=messing bronze""",
    "medicine": """
    aspirin=asa ibuprofen=advil=nurofen paracetamol=acetaminophen=tylenol naproxen=aleve diclofenac=voltaren morphine=morphin codeine tramadol fentanyl oxycodone amoxicillin penicillin azithromycin doxycycline
    ciprofloxacin metformin insulin glipizide atorvastatin simvastatin rosuvastatin lisinopril ramipril enalapril losartan valsartan amlodipine metoprolol bisoprolol propranolol atenolol warfarin heparin
    clopidogrel apixaban rivaroxaban omeprazole pantoprazole ranitidine prednisone prednisolone hydrocortisone dexamethasone cortisone levothyroxine sertraline fluoxetine=prozac citalopram escitalopram
    paroxetine venlafaxine bupropion diazepam=valium lorazepam=ativan alprazolam=xanax zolpidem lithium methylphenidate=ritalin amphetamine=adderall cetirizine loratadine salbutamol=albuterol viagra=sildenafil
    tadalafil=cialis marijuana=cannabis=weed=thc cocaine heroin meth=methamphetamine=crystal lsd mdma=ecstasy nicotine caffeine=koffein alcohol=alkohol""",
    "planet": "mercury venus earth mars jupiter saturn uranus neptune pluto",
    "colour": """
    red=rot=rouge=rojo=roja blue=blau=bleu=azul green=grün=vert=verde yellow=gelb=jaune=amarillo orange purple=lila=violet=violett pink=rosa brown=braun=marron=marrón black=schwarz=noir=negro
    white=weiss=blanc=blanco grey=gray=grau=gris""",
    "language or religion": """
    english=englisch=anglais=inglés hindi urdu tamil telugu bengali marathi gujarati malayalam kannada punjabi sanskrit arabic=arabisch=arabe=árabe hebrew farsi=persian latin=latein mandarin cantonese korean=koreanisch christian=christianity=christians=christ
    muslim=muslims=islam=islamic jewish=jews=jew=judaism hindu=hindus=hinduism buddhist=buddhism=buddha sikh=sikhs=sikhism catholic=catholics protestant""",
    "animal": """
    dog=dogs=puppy=hund=hunde=chien=chiens=perro=perros cat=cats=kitten=katze=katzen=chat=chats=gato=gatos horse=horses=pferd=cheval=caballo cow=cows=kuh=vache=vaca pig=pigs=schwein=cochon=cerdo sheep=schaf=mouton=oveja
    goat=goats=ziege chicken=chickens=huhn=poulet=pollo duck=ducks=ente rabbit=rabbits=kaninchen=lapin=conejo mouse=mice=maus=souris=ratón rat=rats=ratte lion=lions=löwe tiger=tigers elephant=elephants=elefant bear=bears=bär
    wolf=wolves fox=foxes=fuchs snake=snakes=schlange shark=sharks=hai whale=whales=wal dolphin=dolphins=delfin monkey=monkeys=affe bird=birds=vogel fish=fisch=poisson spider=spiders=spinne bee=bees=biene ant=ants=ameise
    hamster turtle=turtles frog=frogs cockroach=cockroaches mosquito=mosquitoes""",
    "body part": """
    arm arms leg legs=bein hand hands foot=feet knee=knees=knie elbow=elbows shoulder=shoulders=schulter hip=hips hüfte ankle=ankles wrist=wrists finger=fingers toe=toes zehe neck=nacken=cou=cuello head=kopf=tête=cabeza
    chest=brust back=rücken stomach=bauch=belly liver=leber=foie=hígado kidney=kidneys=niere=rein=riñón lung=lungs=lunge=poumon=pulmón heart=herz=coeur=corazón brain=gehirn=cerveau=cerebro eye=eyes=auge=oeil=ojo ear=ears=ohr=oreille
    nose=nase=nez=nariz tooth=teeth=zahn=dent=diente tongue=zunge throat=hals=gorge thyroid=schilddrüse prostate pancreas bladder=blase""",
}
# Words of which other names are made: told apart from plain words by their capital alone.
AMBIGUOUS = """
march may mars chat turkey jordan georgia nice access word excel teams zoom signal slack spring edge opera safari apple amazon visa puma ford r go swift rust react word lead tin earth mercury oracle ruby perl basic dart
shell island polish chile mali oman china hier sept jan dec sep oct nov feb mar apr aug rio bash windows outlook back head heart nose hand hands chest iron gold silver steel red black white green blue fiat crystal weed access coke
whats hindi rein dent wal bear ant duck fox pandas uber orange rosa arm saudi ears latin chrom titan english british dubai rom chino
"""
OTHER_STOP = {
    "it": "il lo gli della dello degli delle che non è sono come perché quando dove chi quale quanto più anche essere fare posso puoi questo questa nel nella alla dal di per con una",
    "pt": "o os as uma dos das do da não é são como porque quando onde quem qual quanto mais também ser fazer posso pode este esta no na ao em com para você eu meu",
    "nl": "de het een en van niet is zijn hoe wat waar wanneer wie welke waarom ik je kan kunnen moet met voor op te dat dit mijn naar bij ook geen",
    "sv": "och är inte en ett hur vad var när vem varför jag kan man med för på att det den min till också som har",
    "da": "og er ikke en et hvordan hvad hvor hvornår hvem hvorfor jeg kan man med for på at det den min til også som har",
    "pl": "i nie jest są jak co gdzie kiedy kto dlaczego czy ja mogę można z na do w to się dla od mój ile który",
    "tr": "ve değil bir nasıl ne nerede zaman kim neden ben mi mı mu için ile bu şu var yok kadar hangi",
    "cs": "a není je jsou jak co kde kdy kdo proč já mohu může s na do v to se pro od můj kolik který",
    "ro": "și nu este sunt cum ce unde când cine de eu pot cu pentru pe la care cât meu o un",
    "hu": "és nem van hogyan mi hol mikor ki miért én tud egy az ez hogy kell lehet mennyi",
    "fi": "ja ei on ovat miten mitä missä milloin kuka miksi minä voi se että kuinka paljon",
    "id": "dan tidak adalah bagaimana apa di mana kapan siapa mengapa saya bisa dengan untuk yang ini itu dari ke",
}
